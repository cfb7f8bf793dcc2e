"""What the stages of the smallest possible pipeline do."""

DVC_YAML = """\
stages:
  weigh:
    cmd: wc -c < data/brick.txt > weight.txt
    deps: [data]
    outs: [weight.txt]
  double:
    cmd: cat weight.txt weight.txt > double.txt
    deps: [weight.txt]
    outs: [double.txt]
  announce:
    cmd: sh announce.sh
    deps: [announce.sh, double.txt]
    outs: [announcement.txt]
"""

ANNOUNCE = """\
echo "announcing the bricks"
cp double.txt announcement.txt
"""

FAIL = """\
mkdir -p .state
echo '{"stage": "announce", "code": 2, "reason": "no bricks to announce"}' > .state/last_exit.json
exit 2
"""

PREEMPTED_ONCE = """\
mkdir -p .state
if [ -e .state/tried ]; then cp double.txt announcement.txt; exit 0; fi
touch .state/tried
echo '{"stage": "announce", "code": 75, "reason": "saved at step 7"}' > .state/last_exit.json
exit 75
"""

SLOW = """\
trap 'echo "saving"; touch saved; exit 75' TERM
echo "started"
while :; do sleep 0.1; done
"""

TELLTALE = """\
echo "$HF_TOKEN $MLFLOW_TRACKING_PASSWORD" > told
echo "401 for $HF_TOKEN"
echo "$MLFLOW_TRACKING_PASSWORD is wrong too"
mkdir -p .state
echo "{\\"stage\\": \\"announce\\", \\"code\\": 2, \\"reason\\": \\"$HF_TOKEN is no token\\"}" > .state/last_exit.json
exit 2
"""
