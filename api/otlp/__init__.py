"""OpenTelemetry's traces, as OTLP/HTTP carries them: spans out of protobuf or JSON, and the steps among them."""
