"""The config of a memory: its checks, its file, its templates."""
