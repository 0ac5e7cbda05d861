"""The one style of the project's command lines: parsers, tables, progress, JSON, completion.

rich is used where it is installed and somebody watches; pipes and files get plain text that stays the same.
"""
