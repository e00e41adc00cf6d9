"""Models and baselines on whole cases: prompts, metrics, reports."""
