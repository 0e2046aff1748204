"""What vLLM is asked with."""

TokensPrompt = TextPrompt = dict
