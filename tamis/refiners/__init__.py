"""Better answers for rows: each method takes conversations and tells what it changed, and why."""
