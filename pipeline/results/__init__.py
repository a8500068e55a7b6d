"""What is asked of finished runs: evaluate, compare, predict."""
