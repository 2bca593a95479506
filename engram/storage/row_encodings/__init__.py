"""Rows of tables as the files of other engines encode them, decoded as those engines do."""
