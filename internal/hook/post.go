package hook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// The headers of what is posted. The signature is "sha256=" and the HMAC of the body in hexadecimal.
const (
	SignatureHeader = "Walferry-Signature"
	EventHeader     = "Walferry-Event"
)

// Sign returns the signature of a body.
func Sign(secret, body []byte) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write(body)
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}

// client follows no redirection: the payload is for the address that was given.
var client = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

// post posts the payload to an address.
func (c *Caller) post(ctx context.Context, address string, p Payload, body []byte) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return errors.New("it cannot be read as an address")
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "walferry")
	r.Header.Set(EventHeader, string(p.Event))
	if len(c.Secret) > 0 {
		r.Header.Set(SignatureHeader, Sign(c.Secret, body))
	}
	answer, err := client.Do(r)
	if err != nil {
		var wrapped *url.Error // which quotes the address
		if errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		if ctx.Err() != nil {
			err = timedOut(ctx, c.timeout())
		}
		return err
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(answer.Body, longest)) // what it says is beside the point
	if answer.StatusCode/100 == 2 {
		return nil
	}
	if said := c.mask(string(text)); said != "" {
		return fmt.Errorf("%s: %s", answer.Status, said)
	}
	return errors.New(answer.Status)
}
