"""Stage: tell MLflow of the recommended adapter."""
