"""The processes that the supervisor starts, watches, replaces and stops: workers, attribution, recorder."""
