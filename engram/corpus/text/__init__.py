"""Documents from text of any kind, streamed."""
