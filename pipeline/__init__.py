"""What runs when and where: command line, plan, execution, training, reports."""
