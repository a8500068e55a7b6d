"""What `mer bench` measures."""
