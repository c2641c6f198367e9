package filesystem

import (
	"context"
	"strings"

	"connectrpc.com/connect"

	pb "github.com/wrenn-dev/wrenn/envd/internal/pb/filesystem"
)

const (
	// how the first Python clients call themselves; they fail at every field that they do not know
	legacyAgent  = "connect-python"
	legacyHeader = "X-E2b-Legacy-Sdk"
)

// Legacy leaves only name, type and path in the entries that the oldest clients get.
func Legacy() connect.Interceptor {
	return connect.UnaryInterceptorFunc(func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
			answer, err := next(ctx, req)
			if err == nil && strings.HasPrefix(req.Header().Get("User-Agent"), legacyAgent) {
				for _, entry := range entriesOf(answer.Any()) {
					*entry = pb.EntryInfo{Name: entry.Name, Type: entry.Type, Path: entry.Path}
				}
				answer.Header().Set(legacyHeader, "true")
			}
			return answer, err
		}
	})
}

// entriesOf gives the entries of an answer.
func entriesOf(message any) []*pb.EntryInfo {
	switch answer := message.(type) {
	case *pb.ListDirResponse:
		return answer.GetEntries()
	case interface{ GetEntry() *pb.EntryInfo }:
		if entry := answer.GetEntry(); entry != nil {
			return []*pb.EntryInfo{entry}
		}
	}
	return nil
}
