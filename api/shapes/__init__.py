"""The shapes of the API's bodies, by noun: pydantic models for the OpenAPI document, and functions that fill them."""
