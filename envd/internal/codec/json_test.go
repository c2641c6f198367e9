package codec

import (
	"bytes"
	"encoding/json"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/wrenn-dev/wrenn/envd/internal/pb/filesystem"
	"github.com/wrenn-dev/wrenn/envd/internal/pb/process"
)

func data(output *process.ProcessEvent_DataEvent) *process.StartResponse {
	return &process.StartResponse{Event: &process.ProcessEvent{Event: &process.ProcessEvent_Data{Data: output}}}
}

func TestMessages(t *testing.T) {
	for _, test := range []struct {
		message proto.Message
		want    string
	}{
		{
			&process.StartResponse{Event: &process.ProcessEvent{Event: &process.ProcessEvent_Start{
				Start: &process.ProcessEvent_StartEvent{Pid: 42},
			}}}, `{"event":{"start":{"pid":42}}}`,
		},
		{
			&process.StartResponse{Event: &process.ProcessEvent{Event: &process.ProcessEvent_End{
				End: &process.ProcessEvent_EndEvent{ExitCode: -1, Status: "signal: killed"},
			}}}, `{"event":{"end":{"exitCode":-1,"status":"signal: killed"}}}`,
		},
		{
			&process.StartResponse{Event: &process.ProcessEvent{Event: &process.ProcessEvent_Keepalive{
				Keepalive: &process.ProcessEvent_KeepAlive{},
			}}}, `{"event":{"keepalive":{}}}`,
		},
		{&filesystem.StatResponse{Entry: &filesystem.EntryInfo{Name: "<&>", Size: 5}}, `{"entry":{"name":"<&>","size":"5"}}`},
	} {
		got, err := JSON("json").Marshal(test.message)
		if err != nil || string(got) != test.want {
			t.Errorf("got %s %v, want %s", got, err, test.want)
		}
	}
}

// The short way for output must say the same as protobuf's own encoder.
func TestOutputIsEncodedAsProtobufDoes(t *testing.T) {
	payload := make([]byte, 256)
	for i := range payload {
		payload[i] = byte(i)
	}
	for _, message := range []*process.StartResponse{
		data(&process.ProcessEvent_DataEvent{Output: &process.ProcessEvent_DataEvent_Stdout{Stdout: payload}}),
		data(&process.ProcessEvent_DataEvent{Output: &process.ProcessEvent_DataEvent_Stderr{Stderr: payload[:1]}}),
		data(&process.ProcessEvent_DataEvent{Output: &process.ProcessEvent_DataEvent_Pty{Pty: payload[:2]}}),
		data(&process.ProcessEvent_DataEvent{Output: &process.ProcessEvent_DataEvent_Stdout{}}),
		data(&process.ProcessEvent_DataEvent{}),
	} {
		ours, err := JSON("json").MarshalAppend([]byte("head"), message)
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := protojson.Marshal(message)
		if err != nil {
			t.Fatal(err)
		}
		if want := append([]byte("head"), bytes.ReplaceAll(theirs, []byte(" "), nil)...); !bytes.Equal(ours, want) {
			t.Errorf("got %s, want %s", ours, want)
		}
		back := new(process.StartResponse)
		if err := JSON("json").Unmarshal(ours[4:], back); err != nil || !proto.Equal(back, message) {
			t.Errorf("%s does not come back: %v", ours, err)
		}
	}
}

func TestEventsAreEncodedAsProtobufDoes(t *testing.T) {
	for _, event := range []*filesystem.FilesystemEvent{
		{Name: "a b/ä€\u2028<&>", Type: filesystem.EventType_EVENT_TYPE_CHMOD},
		{Name: "quote\"", Type: filesystem.EventType_EVENT_TYPE_CREATE},
		{Name: "back\\slash", Type: filesystem.EventType_EVENT_TYPE_CREATE},
		{Name: "line\nfeed\x7f\x01", Type: filesystem.EventType_EVENT_TYPE_CREATE},
		{Name: "", Type: filesystem.EventType_EVENT_TYPE_WRITE},
		{Name: "none"},
		{Name: "new", Type: 99},
		{Name: "entry", Type: filesystem.EventType_EVENT_TYPE_WRITE, Entry: &filesystem.EntryInfo{Name: "entry"}},
		nil,
	} {
		plain := &filesystem.FilesystemEvent{Name: "plain", Type: filesystem.EventType_EVENT_TYPE_WRITE}
		for _, message := range []proto.Message{
			&filesystem.WatchDirResponse{Event: &filesystem.WatchDirResponse_Filesystem{Filesystem: event}},
			&filesystem.GetWatcherEventsResponse{},
			&filesystem.GetWatcherEventsResponse{Events: []*filesystem.FilesystemEvent{event}},
			&filesystem.GetWatcherEventsResponse{Events: []*filesystem.FilesystemEvent{plain, event, plain}},
		} {
			ours, err := JSON("json").MarshalAppend([]byte("head"), message)
			if err != nil {
				t.Fatal(err)
			}
			theirs, err := protojson.Marshal(message)
			if err != nil {
				t.Fatal(err)
			}
			var want bytes.Buffer
			want.WriteString("head")
			if err := json.Compact(&want, theirs); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(ours, want.Bytes()) {
				t.Errorf("got %s, want %s", ours, want.Bytes())
			}
		}
	}
	bad := &filesystem.WatchDirResponse{Event: &filesystem.WatchDirResponse_Filesystem{
		Filesystem: &filesystem.FilesystemEvent{Name: "\xff", Type: filesystem.EventType_EVENT_TYPE_CREATE},
	}}
	if _, err := JSON("json").Marshal(bad); err == nil {
		t.Error("a name that is not UTF-8 passes")
	}
}

func TestUnmarshal(t *testing.T) {
	message := new(process.StartRequest)
	if err := JSON("json").Unmarshal([]byte(`{"process":{"cmd":"x"},"unknown":{"a":[1]}}`), message); err != nil {
		t.Error(err)
	}
	if message.GetProcess().GetCmd() != "x" || message.Stdin != nil {
		t.Errorf("got %v", message)
	}
	for _, bad := range []string{"", "{", `{"process":1}`} {
		if err := JSON("json").Unmarshal([]byte(bad), message); err == nil {
			t.Errorf("%q passes", bad)
		}
	}
}
