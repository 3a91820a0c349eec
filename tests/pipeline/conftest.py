from scripted_judge import replies, scripted  # noqa: F401 - fixtures of several files
