"""A text of a few paragraphs, for commands that read one."""

TEXT = "Only Alexander the Great.\nThe Milky Way.\n\n" * 40 + "By the way."
DOCUMENTS = 41
