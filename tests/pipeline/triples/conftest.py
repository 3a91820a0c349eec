from scripted_writers import scripts, values  # noqa: F401 - fixtures of this folder
