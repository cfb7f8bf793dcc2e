"""A run: the loop, and what only training needs."""
