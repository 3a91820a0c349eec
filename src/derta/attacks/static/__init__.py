"""Static attacks, which compute their prompts without a model, one file each."""
