"""Replays demand through the operator's own policies, request by request, on servers that are simulated."""
