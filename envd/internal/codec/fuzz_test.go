package codec

import (
	"encoding/json"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/wrenn-dev/wrenn/envd/internal/pb/filesystem"
	"github.com/wrenn-dev/wrenn/envd/internal/pb/process"
)

// Whatever is understood can be said again, and means the same.
func FuzzJSON(f *testing.F) {
	for _, seed := range []string{
		"", "{}", "[]", "null", `{"process":{"cmd":"/bin/bash","args":["-l","-c","echo hi"]},"stdin":false}`,
		`{"process":{"pid":"42"},"input":{"stdin":"aGkK"}}`, `{"process":{"pid":-1}}`, `{"process":{"tag":"x","pid":1}}`,
		`{"path":"/x","depth":1e0}`, `{"path":"\ud800"}`, `{"event":{"data":{"pty":"_-8="}}}`, `{"event":{"end":{"exitCode":-1,"error":""}}}`,
		`{"entry":{"size":"9223372036854775807","modifiedTime":"2026-01-01T00:00:00.000000001Z","metadata":{"":"","a":"b"}}}`,
		`{"events":[{"name":"a","type":"EVENT_TYPE_CREATE"},{"type":5},{"type":99}]}`, `{"signal":"SIGNAL_SIGKILL","new":[{}]}`,
	} {
		f.Add([]byte(seed))
	}
	messages := []func() proto.Message{
		func() proto.Message { return new(process.StartRequest) },
		func() proto.Message { return new(process.StartResponse) },
		func() proto.Message { return new(process.SendInputRequest) },
		func() proto.Message { return new(process.StreamInputRequest) },
		func() proto.Message { return new(process.SendSignalRequest) },
		func() proto.Message { return new(process.UpdateRequest) },
		func() proto.Message { return new(filesystem.ListDirRequest) },
		func() proto.Message { return new(filesystem.StatResponse) },
		func() proto.Message { return new(filesystem.WatchDirRequest) },
		func() proto.Message { return new(filesystem.GetWatcherEventsResponse) },
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, empty := range messages {
			message := empty()
			if JSON("json").Unmarshal(data, message) != nil {
				continue
			}
			said, err := JSON("json").Marshal(message)
			if err != nil {
				t.Fatalf("%T from %q: %v", message, data, err)
			}
			if !json.Valid(said) {
				t.Fatalf("%T from %q: %s", message, data, said)
			}
			again := empty()
			if err := JSON("json").Unmarshal(said, again); err != nil || !proto.Equal(message, again) {
				t.Fatalf("%T from %q: %s comes back as %v %v", message, data, said, again, err)
			}
		}
	})
}
