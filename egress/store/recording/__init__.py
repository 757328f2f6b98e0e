"""Moves journals into the database: segments, the recorder, the writer; retention; and steps from frameworks."""
