package pgtest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

// newIdentity gives a copied data directory a system identifier of its own: walferry tells servers
// apart by it, as does PostgreSQL. There is no program for that, but the identifier is in two
// places only: first in global/pg_control, which has a checksum, and in the header of each WAL
// segment, which has none. A data directory fresh from initdb has one segment. All numbers are in
// the byte order of the machine.
func newIdentity(dataDir string) error {
	control := filepath.Join(dataDir, "global", "pg_control")
	data, err := os.ReadFile(control)
	if err != nil {
		return err
	}
	at, err := controlChecksum(data)
	if err != nil {
		return err
	}
	order := binary.NativeEndian
	old := order.Uint64(data)
	// The same recipe as PostgreSQL's, with chance for the process id.
	now := time.Now()
	id := uint64(now.Unix())<<32 | uint64(now.Nanosecond()/1000)<<12 | rand.Uint64N(1<<12)
	order.PutUint64(data, id)
	order.PutUint32(data[at:], crc32.Checksum(data[:at], castagnoli))

	segments, err := filepath.Glob(filepath.Join(dataDir, "pg_wal", "[0-9A-F]*"))
	if err != nil {
		return err
	}
	if len(segments) == 0 {
		return errors.New("the data directory has no WAL")
	}
	for _, segment := range segments {
		if err := newSegmentIdentity(segment, old, id); err != nil {
			return fmt.Errorf("change %s: %w", segment, err)
		}
	}
	return os.WriteFile(control, data, 0o600)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// controlChecksum finds where in pg_control the checksum of all that stands before it is. The place
// differs between the major versions.
func controlChecksum(data []byte) (int, error) {
	for at := 128; at+4 <= len(data) && at < 1024; at += 4 {
		if crc32.Checksum(data[:at], castagnoli) == binary.NativeEndian.Uint32(data[at:]) {
			return at, nil
		}
	}
	return 0, errors.New("pg_control has no checksum that fits")
}

// newSegmentIdentity changes the identifier in XLogLongPageHeaderData: magic and info (2 bytes
// each), timeline (4), address (8), remaining length (4), padding (4), identifier (8).
func newSegmentIdentity(segment string, old, id uint64) error {
	file, err := os.OpenFile(segment, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	const at = 24
	var b [8]byte
	if _, err := file.ReadAt(b[:], at); err != nil {
		return err
	}
	if got := binary.NativeEndian.Uint64(b[:]); got != old {
		return fmt.Errorf("segment of system %d, want %d", got, old)
	}
	binary.NativeEndian.PutUint64(b[:], id)
	_, err = file.WriteAt(b[:], at)
	return err
}
