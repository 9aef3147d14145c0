"""Programming tasks: MBPP and HumanEval."""
