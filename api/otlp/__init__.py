"""OpenTelemetry traces over OTLP/HTTP: reads spans from protobuf or JSON, and stores tool calls as steps."""
