package codec

import (
	"encoding/base64"
	"encoding/binary"
	"slices"
)

// pairs has the two characters of each 12 bits, in the order of memory.
var pairs = func() (table [1 << 12]uint16) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	for i := range table {
		table[i] = uint16(alphabet[i>>6]) | uint16(alphabet[i&63])<<8
	}
	return table
}()

// appendBase64 is base64.StdEncoding.AppendEncode with a third of its steps: six bytes by one load, four looks at a table
// and one store. An emulated guest spends more on a program's output here than anywhere else.
func appendBase64(into, data []byte) []byte {
	length := base64.StdEncoding.EncodedLen(len(data))
	into = slices.Grow(into, length)
	rest := into[len(into) : len(into)+length]
	for len(data) >= 8 && len(rest) >= 8 {
		word := binary.BigEndian.Uint64(data)
		binary.LittleEndian.PutUint64(rest, uint64(pairs[word>>52])|uint64(pairs[word>>40&0xfff])<<16|
			uint64(pairs[word>>28&0xfff])<<32|uint64(pairs[word>>16&0xfff])<<48)
		data, rest = data[6:], rest[8:]
	}
	base64.StdEncoding.Encode(rest, data)
	return into[:len(into)+length]
}
