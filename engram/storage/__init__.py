"""Files: they appear whole, and what anyone may have written in them is read with care."""
