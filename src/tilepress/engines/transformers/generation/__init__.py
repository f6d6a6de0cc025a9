"""Generating: one prompt, a conversation, tool calls, and the loop over tokens."""
