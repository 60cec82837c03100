// Takes an order, and has its event sent, in one transaction.
package main

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"

	_ "github.com/lib/pq"
)

func takeOrder(tx *sql.Tx, number int64, customer, traceparent string) error {
	headers := map[string]string{"tenant": "acme", "customer": customer}
	if traceparent != "" {
		headers["traceparent"] = traceparent
	}
	header, err := json.Marshal(headers)
	if err != nil {
		return err
	}
	payload, err := json.Marshal(map[string]any{"order": number, "customer": customer})
	if err != nil {
		return err
	}
	if _, err := tx.Exec("INSERT INTO orders (id, customer) VALUES ($1, $2)", number, customer); err != nil {
		return err
	}
	_, err = tx.Exec(`
		INSERT INTO outbox_message (topic, key, payload, content_type, headers)
		VALUES ($1, $2, $3, $4, $5)`,
		"order.paid", fmt.Sprintf("order-%d", number), payload, "application/json", string(header))
	return err
}

// All in it is committed, or nothing is.
func inTransaction(db *sql.DB, work func(*sql.Tx) error) error {
	tx, err := db.Begin()
	if err != nil {
		return err
	}
	// After a commit it does nothing.
	defer tx.Rollback()
	if err := work(tx); err != nil {
		return err
	}
	return tx.Commit()
}

func main() {
	db, err := sql.Open("postgres", os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	_, err = db.Exec("CREATE TABLE IF NOT EXISTS orders (id bigint PRIMARY KEY, customer text NOT NULL)")
	if err != nil {
		log.Fatal(err)
	}

	err = inTransaction(db, func(tx *sql.Tx) error {
		return takeOrder(tx, 17, "Zoë 🦀", os.Getenv("TRACEPARENT"))
	})
	if err != nil {
		log.Fatal(err)
	}

	err = inTransaction(db, func(tx *sql.Tx) error {
		if err := takeOrder(tx, 18, "Nobody", ""); err != nil {
			return err
		}
		return errors.New("the card was refused")
	})
	log.Printf("order 18 is rolled back, and its event with it: %v", err)
}
