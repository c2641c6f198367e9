#!/bin/sh
# Regenerates internal/pb from ../proto/envd. Needs Go and Python; protoc comes from the grpcio-tools wheel.
set -eu
cd "$(dirname "$0")"
protoc=${PROTOC:-"uvx --from grpcio-tools==1.85.1 python -m grpc_tools.protoc"}
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
go build -o "$bin/" google.golang.org/protobuf/cmd/protoc-gen-go connectrpc.com/connect/cmd/protoc-gen-connect-go
for name in process filesystem; do
    # shellcheck disable=SC2086 # a command line, not a file name
    $protoc -I ../proto/envd \
        --plugin=protoc-gen-go="$bin/protoc-gen-go" --go_out=. --go_opt=module=github.com/wrenn-dev/wrenn/envd \
        --plugin=protoc-gen-connect-go="$bin/protoc-gen-connect-go" \
        --connect-go_out=. --connect-go_opt=module=github.com/wrenn-dev/wrenn/envd \
        "$name.proto"
done
gofmt -l -w internal/pb
