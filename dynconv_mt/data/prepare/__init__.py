"""From the files of a public corpus to what `dc-preprocess` reads: the steps of the recipes worth testing.

`python -m dynconv_mt.data.prepare NAME FOLDER OUT` writes text into OUT and prints options of dc-preprocess.
"""
