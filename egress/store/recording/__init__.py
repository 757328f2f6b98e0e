"""From journals to rows: segments, the recorder, the writer, retention, and the steps that frameworks report."""
