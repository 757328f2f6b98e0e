"""The API's resources, one file a noun; each has a `router`."""
