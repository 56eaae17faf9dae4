/**
 * PEM text in, a TLS context of OpenSSL out: TLS 1.3 only, both sides authenticated, no session tickets, no early data.
 * What is wrong with a certificate or key is found here, before a socket is opened.
 */
import { BeyondError } from '../errors.ts'
import * as ffi from './openssl-ffi.ts'
import type { Credentials } from './quic.ts'

/** An empty password: with none at all, OpenSSL asks for the password of an encrypted key on the terminal. */
const NO_PASSWORD = Buffer.from('\0')

/** The caller frees it with SSL_CTX_free; connections made from it keep it alive by themselves. */
export function createContext(role: 'server' | 'client', credentials: Credentials): ffi.Pointer {
  ffi.ERR_clear_error()
  const ctx = ffi.SSL_CTX_new(role === 'server' ? ffi.OSSL_QUIC_server_method() : ffi.OSSL_QUIC_client_method())
  if (ctx === 0) throw new BeyondError('INTERNAL', `OpenSSL makes no QUIC ${role} context: ${takeError()}.`)
  try {
    ffi.SSL_CTX_ctrl(ctx, ffi.SSL_CTRL_SET_MIN_PROTO_VERSION, ffi.TLS1_3_VERSION, 0)
    ffi.SSL_CTX_ctrl(ctx, ffi.SSL_CTRL_SET_SESS_CACHE_MODE, 0, 0)
    ffi.SSL_CTX_set_options(ctx, ffi.SSL_OP_NO_TICKET)
    ffi.SSL_CTX_set_num_tickets(ctx, 0)
    // The purpose is checked with it: a server accepts certificates for clients only, and the other way round.
    ffi.SSL_CTX_set_verify(ctx, ffi.SSL_VERIFY_PEER | ffi.SSL_VERIFY_FAIL_IF_NO_PEER_CERT, 0)
    useCertificate(ctx, credentials.cert)
    useKey(ctx, credentials.key)
    useAuthorities(ctx, credentials.ca)
    return ctx
  } catch (error) {
    ffi.SSL_CTX_free(ctx)
    throw error
  } finally {
    ffi.ERR_clear_error()
  }
}

function useCertificate(ctx: ffi.Pointer, pem: string): void {
  const [own, ...chain] = readCertificates(pem)
  if (own === undefined) throw bad('The certificate text holds no PEM certificate.')
  // The context takes a reference to its own certificate, and takes over those of the chain.
  const used = ffi.SSL_CTX_use_certificate(ctx, own) === 1
  ffi.X509_free(own)
  let failed = !used
  for (const certificate of chain) {
    if (!failed && ffi.SSL_CTX_ctrl(ctx, ffi.SSL_CTRL_CHAIN_CERT, 0, certificate) === 1) continue
    failed = true
    ffi.X509_free(certificate)
  }
  if (failed) throw bad(`The certificate can't be used: ${takeError()}.`)
}

function useKey(ctx: ffi.Pointer, pem: string): void {
  const key = withText(pem, (bio) => ffi.PEM_read_bio_PrivateKey(bio, 0, 0, NO_PASSWORD))
  if (key === 0) throw bad(`The private key can't be read (PEM without a password is wanted): ${takeError()}.`)
  const used = ffi.SSL_CTX_use_PrivateKey(ctx, key) === 1
  ffi.EVP_PKEY_free(key)
  if (!used || ffi.SSL_CTX_check_private_key(ctx) !== 1) {
    throw bad(`The private key does not belong to the certificate (${takeError()}): give the two that were made together.`)
  }
}

function useAuthorities(ctx: ffi.Pointer, pem: string): void {
  const authorities = readCertificates(pem)
  if (authorities.length === 0) throw bad('The text of the certificate authority holds no PEM certificate.')
  const store = ffi.SSL_CTX_get_cert_store(ctx)
  let failed = false
  for (const certificate of authorities) {
    if (ffi.X509_STORE_add_cert(store, certificate) !== 1) failed = true
    ffi.X509_free(certificate)
  }
  if (failed) throw bad(`A certificate of the authority can't be used: ${takeError()}.`)
}

function readCertificates(pem: string): ffi.Pointer[] {
  const blocks = pem.match(/-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g) ?? []
  const certificates: ffi.Pointer[] = []
  for (const block of blocks) {
    const certificate = withText(block, (bio) => ffi.PEM_read_bio_X509(bio, 0, 0, NO_PASSWORD))
    if (certificate === 0) {
      for (const read of certificates) ffi.X509_free(read)
      throw bad(`A certificate can't be read: ${takeError()}.`)
    }
    certificates.push(certificate)
  }
  return certificates
}

function withText(text: string, read: (bio: ffi.Pointer) => ffi.Pointer): ffi.Pointer {
  const bytes = Buffer.from(text)
  const bio = ffi.BIO_new_mem_buf(bytes, bytes.length)
  if (bio === 0) return 0
  const result = read(bio)
  ffi.BIO_free(bio)
  return result
}

function bad(message: string): BeyondError {
  return new BeyondError('BAD_CERTIFICATE', message)
}

/** The oldest error in OpenSSL's queue of this thread, which names the cause; empties the queue. */
export function takeError(): string {
  const code = ffi.ERR_get_error()
  ffi.ERR_clear_error()
  return (code !== 0 && ffi.ERR_reason_error_string(code)) || 'no reason given'
}
