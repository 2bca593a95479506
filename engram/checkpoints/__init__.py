"""Checkpoints with memories: attached, inspected and verified, streamed in bounded memory."""
