"""The API's resources, one file per noun. `api.app` finds the `router` in each."""
