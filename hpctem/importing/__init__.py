"""Data sets of others as databases: published images and labels, with where they come from.

`import_file` reads what a set is and how its files are laid out, `stacks` and `folders` read its
images and labels, `tables` says what the database holds, `job` fills it at any number of ranks.
"""
