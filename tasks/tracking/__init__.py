"""The one door to MLflow, which is a projection of the files: whatever is in the store can be made again from them.

So everything here looks before it writes, and saying a thing twice changes nothing. It is a folder because the training stage
depends on the bytes of what it imports: it takes `live`, and a change to how versions are registered must not retrain.
mlflow costs three seconds to import, so the functions that need it import it, after its telemetry is off.
"""
