// Package codec is the JSON form of the Connect messages, byte for byte the same in every build: protobuf's own
// encoder puts random spaces between the tokens, so that nobody relies on its output.
package codec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/wrenn-dev/wrenn/envd/internal/pb/filesystem"
	"github.com/wrenn-dev/wrenn/envd/internal/pb/process"
)

// JSON implements connect.Codec under the content type's name, "json" or a variant of it.
type JSON string

// Name is what the content type says.
func (j JSON) Name() string { return string(j) }

// Marshal encodes a protobuf message.
func (j JSON) Marshal(message any) ([]byte, error) { return j.MarshalAppend(nil, message) }

// MarshalStable is Marshal: the output is stable already.
func (j JSON) MarshalStable(message any) ([]byte, error) { return j.MarshalAppend(nil, message) }

// MarshalAppend appends the encoded message to into.
func (j JSON) MarshalAppend(into []byte, message any) ([]byte, error) {
	if event, ok := message.(interface{ GetEvent() *process.ProcessEvent }); ok {
		if data := event.GetEvent().GetData(); data != nil {
			return appendOutput(into, data), nil
		}
	}
	switch watched := message.(type) {
	case *filesystem.WatchDirResponse:
		if isPlain(watched.GetFilesystem()) {
			into = append(into, `{"filesystem":`...)
			into = appendChange(into, watched.GetFilesystem())
			return append(into, '}'), nil
		}
	case *filesystem.GetWatcherEventsResponse:
		if events := watched.GetEvents(); len(events) > 0 && !slices.ContainsFunc(events, isSpecial) {
			return appendChanges(into, events), nil
		}
	}
	typed, ok := message.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is not a protobuf message", message)
	}
	raw, err := protojson.Marshal(typed)
	if err != nil {
		return nil, err
	}
	buffer := bytes.NewBuffer(into)
	if err := json.Compact(buffer, raw); err != nil {
		return nil, err
	}
	return buffer.Bytes(), nil
}

// appendOutput encodes a program's output without the two extra passes over it of the general way.
func appendOutput(into []byte, data *process.ProcessEvent_DataEvent) []byte {
	name, payload := "", []byte(nil)
	switch output := data.GetOutput().(type) {
	case *process.ProcessEvent_DataEvent_Stdout:
		name, payload = "stdout", output.Stdout
	case *process.ProcessEvent_DataEvent_Stderr:
		name, payload = "stderr", output.Stderr
	case *process.ProcessEvent_DataEvent_Pty:
		name, payload = "pty", output.Pty
	default:
		return append(into, `{"event":{"data":{}}}`...)
	}
	into = append(into, `{"event":{"data":{"`...)
	into = append(into, name...)
	into = append(into, `":"`...)
	into = appendBase64(into, payload)
	return append(into, `"}}}`...)
}

// isPlain tells whether an event of a watched directory is a name and a kind, none of which needs escaping.
func isPlain(event *filesystem.FilesystemEvent) bool {
	if event == nil || event.Name == "" || event.Entry != nil || !utf8.ValidString(event.Name) {
		return false
	}
	special := func(r rune) bool { return r < 0x20 || r == 0x7f || r == '"' || r == '\\' }
	_, known := filesystem.EventType_name[int32(event.Type)]
	return known && event.Type != 0 && !strings.ContainsFunc(event.Name, special)
}

func isSpecial(event *filesystem.FilesystemEvent) bool { return !isPlain(event) }

// appendChanges encodes plain events that were asked for together.
func appendChanges(into []byte, events []*filesystem.FilesystemEvent) []byte {
	into = append(into, `{"events":[`...)
	for i, event := range events {
		if i > 0 {
			into = append(into, ',')
		}
		into = appendChange(into, event)
	}
	return append(into, "]}"...)
}

// appendChange encodes a plain event; thousands may come in a second.
func appendChange(into []byte, event *filesystem.FilesystemEvent) []byte {
	into = append(into, `{"name":"`...)
	into = append(into, event.Name...)
	into = append(into, `","type":"`...)
	into = append(into, event.Type.String()...)
	return append(into, `"}`...)
}

// Unmarshal decodes a protobuf message; fields it does not know are left out, so that newer clients work.
func (j JSON) Unmarshal(data []byte, message any) error {
	typed, ok := message.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is not a protobuf message", message)
	}
	if len(data) == 0 {
		return errors.New("zero-length payload is not a valid JSON object")
	}
	return protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(data, typed)
}
