#!/bin/sh
# The end of `make run`: starts the machine demo, runs examples/hello on it,
# and fetches its page through the port on this computer.
set -eu
cd "$(dirname "$0")/.."
wherry=build/wherry
port=${PORT:-8080}

if ! $wherry vm start demo --image build/core-amd64 -p "$port:$port"; then
	echo "(with another port on this computer: make run PORT=8081)" >&2
	exit 1
fi
$wherry -m demo rm -f hello >/dev/null 2>&1 || true
$wherry -m demo run -d --name hello -p "$port:8080" ./examples/hello

echo
echo "http://localhost:$port/ says:"
n=0
until page=$(curl -fsS --max-time 5 "http://localhost:$port/" 2>/dev/null); do
	n=$((n + 1))
	if [ "$n" -ge 30 ]; then
		echo "nothing: the container does not answer. Its log:" >&2
		$wherry -m demo logs hello >&2 || true
		exit 1
	fi
	sleep 1
done
printf '%s\n\n' "$page"

cat <<NEXT
The machine demo is running. Try:

  $wherry -m demo status
  $wherry -m demo ps
  $wherry -m demo logs -f hello
  $wherry -m demo run -it --rm alpine sh
  $wherry vm console demo
  make stop
NEXT
