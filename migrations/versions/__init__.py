"""The revisions, one file each; a published revision is never edited."""
