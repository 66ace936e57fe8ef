//! The client against a server that lies: each lie ends in a clear error, in bounded time and memory.

use std::io::Write;

use bytes::BytesMut;
use tidemark_model::ByteLen;
use tidemark_nbd::codec::{
    self, ChunkHeader, ChunkType, ContextId, Cookie, Errno, ErrorChunk, Greeting, RequestHeader, WireExtent,
};
use tidemark_nbd::{Client, Command, Error, ErrorKind, TransmissionFlags};

use crate::liar::{Liar, Manners, chunk, data, simple};
use crate::process::{extent, quick};

type Reply = fn(RequestHeader) -> Vec<u8>;

async fn read_from(manners: Manners, reply: Reply) -> Result<BytesMut, Error> {
    let liar = Liar::answering(move |_| manners.clone(), move |_, request| Some(reply(request)));
    let client = Client::connect(quick(liar.uri())).await.unwrap();
    client.read(extent(4096, 8192), BytesMut::new()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_in_structured_replies() {
    let lies: [(&str, Reply); 14] = [
        ("wrong magic", |_| b"HTTP/1.1 500 Oh\r\n\r\n\r\n\r\n".to_vec()),
        ("unknown cookie", |r| data(Cookie(r.cookie.0 + 1), true, 4096, &[1; 8192])),
        ("simple", |r| simple(r.cookie, &[1; 8192])),
        ("before the read", |r| data(r.cookie, true, 4095, &[1; 8192])),
        ("beyond the read", |r| data(r.cookie, true, 8192, &[1; 8192])),
        ("far away", |r| data(r.cookie, true, u64::MAX - 4, &[1; 8192])),
        ("no data", |r| data(r.cookie, true, 4096, &[])),
        ("too little", |r| data(r.cookie, true, 4096, &[1; 8191])),
        ("nothing", |r| chunk(r.cookie, ChunkType::NONE, true, &[])),
        ("twice", |r| {
            [data(r.cookie, false, 4096, &[1; 8192]), data(r.cookie, true, 4096, &[2; 512])].concat()
        }),
        ("a huge hole", |r| {
            let payload = [&4096_u64.to_be_bytes()[..], &u32::MAX.to_be_bytes()].concat();
            chunk(r.cookie, ChunkType::OFFSET_HOLE, true, &payload)
        }),
        ("block status", |r| {
            let extents = [WireExtent { length: 8192, flags: 0 }];
            chunk(
                r.cookie,
                ChunkType::BLOCK_STATUS,
                true,
                &codec::encode_block_status(ContextId(7), &extents),
            )
        }),
        ("a gigabyte of error", |r| {
            let mut out = BytesMut::new();
            ChunkHeader { done: true, chunk: ChunkType::ERROR, cookie: r.cookie, length: 1 << 30 }
                .encode(&mut out);
            out.to_vec()
        }),
        ("unknown chunk", |r| chunk(r.cookie, ChunkType(77), true, &[1; 100])),
    ];
    for (name, lie) in lies {
        let error = read_from(Manners::default(), lie).await.expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Protocol, "{name}: {error:?}");
        let text = error.to_string();
        assert!(text.contains("/x?socket=") && text.contains("guest offset 4096"), "{name}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_in_simple_replies() {
    let plain = Manners { structured: false, ..Manners::default() };
    let lies: [(&str, Reply); 2] = [
        ("structured", |r| data(r.cookie, true, 4096, &[1; 8192])),
        ("unknown cookie", |r| simple(Cookie(r.cookie.0 ^ (1 << 63)), &[1; 8192])),
    ];
    for (name, lie) in lies {
        let error = read_from(plain.clone(), lie).await.expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Protocol, "{name}: {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_may_come_in_any_order() {
    let read = read_from(Manners::default(), |r| {
        let hole = [&6144_u64.to_be_bytes()[..], &2048_u32.to_be_bytes()].concat();
        [
            data(r.cookie, false, 8192, &[3; 4096]),
            chunk(r.cookie, ChunkType::OFFSET_HOLE, false, &hole),
            data(r.cookie, false, 4096, &[1; 2048]),
            chunk(r.cookie, ChunkType::NONE, true, &[]),
        ]
        .concat()
    });
    let expected = [vec![1; 2048], vec![0; 2048], vec![3; 4096]].concat();
    assert!(read.await.unwrap()[..] == expected[..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_chunk_fails_its_request_only() {
    let liar = Liar::answering(
        |_| Manners::default(),
        |connection, r| {
            assert_eq!(connection, 0, "the client reconnected");
            let broken = r.offset == 4096;
            let error = ErrorChunk::encode(Errno::IO, "bad\nsector");
            let first = data(r.cookie, false, r.offset, &[1; 512]);
            let last = chunk(r.cookie, ChunkType::ERROR, true, &error);
            Some(if broken { [first, last].concat() } else { data(r.cookie, true, r.offset, &[9; 8192]) })
        },
    );
    let client = Client::connect(quick(liar.uri())).await.unwrap();
    let error = client.read(extent(4096, 8192), BytesMut::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Remote(Errno::IO));
    assert!(error.to_string().ends_with("input/output error (bad sector)"), "{error}");
    assert!(client.read(extent(0, 8192), BytesMut::new()).await.unwrap()[..] == [9; 8192]);
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_in_block_status() {
    fn status(request: RequestHeader, context: u32, extents: &[(u32, u32)]) -> Vec<u8> {
        let extents: Vec<_> = extents.iter().map(|&(length, flags)| WireExtent { length, flags }).collect();
        let payload = codec::encode_block_status(ContextId(context), &extents);
        chunk(request.cookie, ChunkType::BLOCK_STATUS, true, &payload)
    }
    let lies: [(&str, Reply); 5] = [
        ("no bytes", |r| status(r, 7, &[(0, 0)])),
        ("no extent", |r| status(r, 7, &[])),
        ("another context", |r| status(r, 8, &[(4096, 0)])),
        ("no context", |r| chunk(r.cookie, ChunkType::NONE, true, &[])),
        ("data", |r| data(r.cookie, true, 0, &[1; 512])),
    ];
    for (name, lie) in lies {
        let liar = Liar::answering(|_| Manners::default(), move |_, request| Some(lie(request)));
        let client = Client::connect(quick(liar.uri())).await.unwrap();
        let error = client.allocated(extent(0, 1 << 30)).await.expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Protocol, "{name}: {error:?}");
    }

    // Short answers are asked on, an over-long last extent is clipped.
    let liar = Liar::answering(
        |_| Manners::default(),
        |_, r| Some(status(r, 7, if r.offset == 0 { &[(4096, 3)] } else { &[(512, 0), (u32::MAX, 3)] })),
    );
    let client = Client::connect(quick(liar.uri())).await.unwrap();
    let map = client.block_status(codec::BASE_ALLOCATION, extent(0, 1 << 30)).await.unwrap();
    let map: Vec<_> = map.iter().map(|extent| (extent.length.0, extent.flags)).collect();
    assert_eq!(map, [(4096, 3), (512, 0), ((1 << 30) - 4608, 3)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_in_the_negotiation() {
    let greeting = Greeting::encode(codec::HANDSHAKE_NO_ZEROES).to_vec();
    let mut long =
        codec::encode_option_reply(codec::OptionCode::STRUCTURED_REPLY, codec::ReplyType::ACK, &[]);
    long[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
    let wrong = codec::encode_option_reply(codec::OptionCode::GO, codec::ReplyType::ACK, &[]);
    let scripts = [
        (b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n".to_vec(), ErrorKind::Protocol),
        ([&greeting[..], &long].concat(), ErrorKind::Protocol),
        ([&greeting[..], &wrong].concat(), ErrorKind::Protocol),
        ([&greeting[..], &[0xff; 64]].concat(), ErrorKind::Protocol),
        (greeting[..10].to_vec(), ErrorKind::Disconnected),
        (Vec::new(), ErrorKind::Disconnected),
    ];
    for (bytes, kind) in scripts {
        let said = bytes.clone();
        let liar = Liar::scripted(move |_, mut stream| {
            // The client may hang up in the middle.
            let _ = stream.write_all(&said);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            std::thread::spawn(move || std::io::copy(&mut stream, &mut std::io::sink()));
        });
        let error = Client::connect(quick(liar.uri())).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{:?}: {error:?}", String::from_utf8_lossy(&bytes));
    }
    let huge = Liar::answering(|_| Manners { size: u64::MAX, ..Manners::default() }, |_, _| None);
    let error = Client::connect(quick(huge.uri())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_with_other_flags_is_another_export() {
    let manners = |connection| {
        let read_only = if connection == 0 { TransmissionFlags::READ_ONLY } else { TransmissionFlags(0) };
        Manners { flags: TransmissionFlags::HAS_FLAGS.with(read_only), ..Manners::default() }
    };
    let liar = Liar::answering(manners, |_, _| None);
    let client = Client::connect(quick(liar.uri())).await.unwrap();
    let error = client.read(extent(0, 512), BytesMut::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Changed, "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_twice_and_no_flush_hides_a_loss() {
    let liar = Liar::answering(
        |_| Manners {
            flags: TransmissionFlags::HAS_FLAGS.with(TransmissionFlags::SEND_FLUSH),
            structured: false,
            ..Manners::default()
        },
        |connection, request| {
            assert_eq!(connection, 0, "the client reconnected over unflushed writes");
            (request.command != Command::WRITE).then(|| simple(request.cookie, &[]))
        },
    );
    let client = Client::connect(quick(liar.uri())).await.unwrap();
    client.flush().await.unwrap();
    let error = client.write(tidemark_model::GuestOffset(0), vec![1; 512].into()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Disconnected);
    let error = client.flush().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Disconnected, "{error:?}");
    assert!(error.to_string().contains("before earlier writes were flushed"), "{error}");
    assert_eq!(client.size(), ByteLen(1 << 30));
}
