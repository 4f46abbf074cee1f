"""The demo: train a small multilingual teacher, distil it, measure what came of it."""
