"""Networks: where they come from, the built-in ones, and how one that was pruned is kept."""
