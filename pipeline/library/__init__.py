"""What `import mer` offers (`pipeline/api/` names it): features as tables and arrays, extraction, runs."""
