"""What is shipped to run the system somewhere."""
