"""Self-supervised methods, ONE FILE EACH, behind the contract of `base.py`.

A method is selected by its module's name; there is no list to keep: a file here is a method.
"""
