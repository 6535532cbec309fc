#!/bin/sh
# Generates api/wherryv1 from api/wherry/v1/*.proto. Needs protoc (Debian: protobuf-compiler).
set -eu
cd "$(dirname "$0")"
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
go build -o "$bin/" google.golang.org/protobuf/cmd/protoc-gen-go connectrpc.com/connect/cmd/protoc-gen-connect-go
cd ..
protoc -I api --plugin="$bin/protoc-gen-go" --plugin="$bin/protoc-gen-connect-go" \
	--go_out=. --go_opt=module=wherry.example/wherry \
	--connect-go_out=. --connect-go_opt=module=wherry.example/wherry \
	api/wherry/v1/*.proto
