"""Networks learn from databases: fed, trained on many ranks, kept, used and judged."""
