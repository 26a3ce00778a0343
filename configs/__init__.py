"""What the commands are composed of, and the recipes; installed as the package `dynconv_mt.configs`."""
