"""What the daemon tells the service manager that started it, if one did."""
